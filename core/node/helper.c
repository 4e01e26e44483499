/* What a node's program does when the node itself has started it. */
#include <string.h>

#include "core/lambda/lambda.h"
#include "core/node/node.h"

int node_helper_main(int argc, char **argv)
{
    return argc > 1 && strcmp(argv[1], "--lambda-check") == 0 ? lambda_check_main(argc, argv) : -1;
}
