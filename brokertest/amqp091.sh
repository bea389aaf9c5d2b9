#!/bin/sh
# Runs the integration tests that amqp091-go ships in its own module against the
# broker in process and prints passed, failed and left out, with reasons.
set -eu
cd "$(dirname "$0")/.."
exec go run ./brokertest/internal/judge "$@"
