/* What the two processes of a check agree on. The child writes a line a step, then a line with its result as a JSON
 * object. */
#ifndef LAMBDA_CHECK_INTERNAL_H
#define LAMBDA_CHECK_INTERNAL_H

#define CHECK_ARGUMENT        "--lambda-check"
#define CHECK_REPORT_FD       3
#define CHECK_STEP_LOAD       'l'
#define CHECK_STEP_INITIALIZE 'i'
#define CHECK_STEP_SHUTDOWN   's'

#endif
