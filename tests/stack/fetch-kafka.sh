#!/bin/bash
# Puts the jars of Apache Kafka that pom.xml names into the cache folder and checks each one's sha256.
#   fetch-kafka.sh          fetch what is missing; does nothing when all is there
#   fetch-kafka.sh repin    after a change of pom.xml: fetch, and write kafka-jars.sha256 anew
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${PICKET_CACHE:-$(cd "$here/../.." && pwd)/.cache}
jars=$cache/stack/kafka
pins=$here/kafka-jars.sha256

say() { echo "fetch: kafka: $*"; }
fail() { echo "fetch: error: kafka: $*" >&2; exit 1; }

# Every pinned jar has its hash, and no jar is there that is not pinned.
in_place() {
    [ -d "$1" ] && (cd "$1" && sha256sum --check --quiet --strict "$pins") >/dev/null 2>&1 &&
        [ "$(ls "$1")" = "$(awk '{print $2}' "$pins" | LC_ALL=C sort)" ]
}

mkdir -p "$cache/stack"
export LC_ALL=C
exec 9>"$cache/.fetch.lock"
flock 9

if [ "${1:-}" != repin ] && in_place "$jars"; then
    say "in place"
    exit 0
fi
command -v mvn >/dev/null || fail "mvn is not installed; install maven (make deps)"

say "downloading $(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml") from Maven Central"
start=$SECONDS
partial=$(mktemp -d "$cache/stack/kafka.XXXXXX")
trap 'rm -rf "$partial"' EXIT
# The plugin by its full name: by its prefix, maven hides why it could not be had.
plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1
mvn --batch-mode --quiet -Dstyle.color=never --file "$here/pom.xml" "$plugin:copy-dependencies" \
    -DoutputDirectory="$partial" </dev/null ||
    fail "maven could not fetch the jars named in $here/pom.xml (its own words are above)"

if [ "${1:-}" = repin ]; then
    (cd "$partial" && sha256sum -- *.jar) >"$pins"
    say "wrote $pins"
fi
if ! in_place "$partial"; then
    # Names the jars that differ; the refusal is in the next line.
    (cd "$partial" && sha256sum --check --quiet "$pins") >&2 || true
    fail "the jars differ from $pins; nothing was installed"
fi
chmod 755 "$partial"
rm -rf "$jars"
mv "$partial" "$jars"
say "$(ls "$jars" | wc -l) jars, $(du -sm "$jars" | cut -f1) MB in $((SECONDS - start)) s -> $jars"
