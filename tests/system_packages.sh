#!/bin/sh
# What the tests use beyond Python: a browser for the report, servers of PostgreSQL and MariaDB for databases, a Java
# runtime for the evaluator of PMML, bubblewrap and libseccomp for the sandbox, curl for the door, systemd to check
# its unit files. Installed where we are
# root on a Debian-like system; elsewhere the tests that need them skip and name the reason, and under CI=true they fail.
set -eu
missing=""
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -x /usr/sbin/mariadbd ] || missing="$missing mariadb-server"
command -v java >/dev/null 2>&1 || missing="$missing default-jre-headless"
command -v curl >/dev/null 2>&1 || missing="$missing curl"
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
ldconfig -p 2>/dev/null | grep -q "libseccomp\.so\.2" || missing="$missing libseccomp2"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing for the tests:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "tests that need these will be skipped:$missing"
fi
