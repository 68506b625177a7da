#!/bin/sh
# Cargo's RUSTC_WORKSPACE_WRAPPER for `make fuzz`: our own crates are built with the counters that libFuzzer
# steers by. Dependencies are not, so that they are those of every other build; what is generic in them
# (serde, the parsers of JSON and TOML) is compiled into our crates and counted there.
case " $* " in
*" --crate-name picket_"*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
