# For a lambda's own Makefile:
#
#     LAMBDA := motion              # builds motion.so from all *.c beside the Makefile
#     LDLIBS := -ljpeg -ljansson
#     include /path/to/sluice/lambdas/kit/lambda.mk
#
# `make` builds it, `make upload SLUICE_URL=http://127.0.0.1:8080 CONFIG='{"threshold":0.01}'` puts it into service,
# `make log` follows what it prints, `make remove` takes it out of service.

sluice := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))/../..)
SLUICE_URL ?= http://127.0.0.1:8080
CONFIG ?= {}
CFLAGS ?= -O2 -g -Wall -Wextra
curl := curl --silent --show-error --fail-with-body $(if $(SLUICE_TOKEN),-H 'Authorization: Bearer $(SLUICE_TOKEN)')

$(LAMBDA).so: $(wildcard *.c) $(sluice)/api/sluice_lambda.h
	$(CC) $(CFLAGS) -shared -fPIC -fvisibility=hidden -I$(sluice) -I$(sluice)/api -o $@ $(filter %.c,$^) $(LDFLAGS) $(LDLIBS)

.PHONY: upload log remove
upload: $(LAMBDA).so
	$(curl) -F file=@$(LAMBDA).so -F 'manifest={"name":"$(LAMBDA)","config":$(CONFIG)};type=application/json' $(SLUICE_URL)/v1/lambdas
log:
	$(curl) --no-buffer $(SLUICE_URL)/v1/lambdas/$(LAMBDA)/log
remove:
	$(curl) -X DELETE $(SLUICE_URL)/v1/lambdas/$(LAMBDA)
