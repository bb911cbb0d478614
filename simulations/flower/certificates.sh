#!/usr/bin/env bash
# Make what TLS and node authentication need: a CA, the SuperLink's certificate, and one key pair a SuperNode.
#
#   certificates.sh FOLDER HOST NODE...      HOST is what nodes and operators reach the SuperLink by (name or IPv4)
set -euo pipefail
folder=$1 host=$2
shift 2
umask 077
mkdir -p "$folder"
cd "$folder"

case $host in
    *[!0-9.]*) names="DNS:$host" ;;
    *) names="IP:$host" ;;
esac
# The SuperLink's own ServerApp calls it by its loopback address.
[ "$host" = 127.0.0.1 ] || names="$names,IP:127.0.0.1"
curve="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc"

# shellcheck disable=SC2086
openssl req -x509 $curve -days 3650 -subj "/CN=plait on Flower" \
    -addext "keyUsage=critical,keyCertSign" -keyout ca.key -out ca.crt
# shellcheck disable=SC2086
openssl req -x509 $curve -days 365 -subj "/CN=$host" -CA ca.crt -CAkey ca.key \
    -addext "basicConstraints=critical,CA:FALSE" -addext "subjectAltName=$names" \
    -keyout superlink.key -out superlink.crt
for node in "$@"; do
    ssh-keygen -q -t ecdsa -b 256 -N "" -C "$node" -f "$node.key"
done
