#!/bin/sh
# Makes the secrets that docker-compose.yml and the Kubernetes manifests mount: deploy/make-secrets.sh [FOLDER]
#
# New random ones, except those that are there already. Nobody else on this machine can enter the folder; the files
# in it can be read by whoever they are mounted for, whatever their number in the container.
set -eu

folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# put NAME: writes stdin to a file that is not there yet
put() {
  if [ -e "$1" ]; then
    cat >/dev/null
  else
    cat >"$1"
    chmod 644 "$1"
  fi
}

password=$(random)
# One password, in the server's words and in the clients': both or neither.
if [ ! -e valkey.conf ] || [ ! -e redis_url ]; then
  rm -f valkey.conf redis_url
  printf 'requirepass %s\n' "$password" | put valkey.conf
  printf 'redis://:%s@valkey:6379/0\n' "$password" | put redis_url
fi

if [ ! -e minio_password ] || [ ! -e aws_credentials ]; then
  rm -f minio_password aws_credentials
  password=$(random)
  printf '%s' "$password" | put minio_password
  printf '[default]\naws_access_key_id = noisemill\naws_secret_access_key = %s\n' "$password" | put aws_credentials
fi

random | put grafana_password

echo "secrets are in $folder"
