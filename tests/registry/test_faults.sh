# What a registry may do wrong, and what smvm-pull must make of it. The registry is tests/registry/faulty.py.
. tests/lib/tap.sh
. tests/lib/image.sh

export SMFS_STORE="$T/store" DOCKER_CONFIG="$T/docker"
unset REGISTRY_AUTH_FILE http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY 2>/dev/null

# A small image of two layers, one of them of a megabyte that does not compress.
mkdir -p "$T/rootfs/etc" "$T/more" && echo hello >"$T/rootfs/etc/hello" && head -c 1000000 /dev/urandom >"$T/more/random"
umoci init --layout "$T/img" && umoci new --image "$T/img:1" &&
	umoci insert --image "$T/img:1" "$T/rootfs" / && umoci insert --image "$T/img:1" "$T/more" /more
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 \
	-keyout "$T/key.pem" -out "$T/cert.pem" 2>/dev/null

mkfifo "$T/ports"
python3 tests/registry/faulty.py "$T/img" "$T/log" "$T/cert.pem" "$T/key.pem" >"$T/ports" 2>"$T/faulty.err" &
at_exit "kill $!; grep -v '^ ' $T/faulty.err | head -20"
read -r PORT MIRROR TLS <"$T/ports"

# Each pull into the same store under its own name; layers are dropped, so that blobs are fetched each time.
pull() { # pull FAULT OPTIONS...
	fault=$1
	shift
	rm -rf "$T/store"
	smvm-pull --plain-http --retries 3 --name "f/$fault:1" "$@" "127.0.0.1:$PORT/$fault/x:1" >"$T/out" 2>"$T/err"
	status=$?
	sed 's/^/# /' "$T/out" "$T/err"
	return $status
}
refuses() { # refuses FAULT WORDS OPTIONS...: fails, exits 1 to 5, says WORDS on one line, publishes nothing
	fault=$1 words=$2
	shift 2
	pull "$fault" "$@" && return 1
	[ $status -le 5 ] && [ "$(wc -l <"$T/err")" = 1 ] && grep -q -- "$words" "$T/err" || return 1
	[ ! -e "$T/store" ] || [ -z "$(smfs ls images)" ]
}
logged() { # logged JQ: some request satisfies the condition
	jq -es "map(select($1)) | length > 0" "$T/log" >/dev/null
}

for good in ok index dockerlist nohead chunked relative; do
	check "pulls: $good" pull $good
done

# Authentication.
check "anonymous token" pull anonymous
check "the token's request carries service and scope, escaped" \
	logged '.path == "/token?for=anonymous&service=reg%2Cistry&scope=repository%3Aanonymous%2Fx%3Apull"'
check "token for a password" pull private -u pull:s3cret
check "a wrong password is refused" refuses private 'credentials were refused' -u pull:wrong
check "none is refused" refuses private 'no anonymous access'
check "Basic, offered after Digest" pull basic -u pull:s3cret
check "Basic without a password says how to give one" refuses basic 'give one with -u'
check "Basic with a wrong password is refused" refuses basic 'credentials were refused' -u pull:wrong
check "tokens that expire midway are renewed" pull expiring
check "endless 401 ends" refuses loop401 'authentication required'
check "a challenge without a realm is refused" refuses norealm 'no realm'
check "a garbled challenge is refused" refuses garbled malformed
mkdir "$T/docker"
printf '{"auths": {"http://127.0.0.1:%s/v2/": {"auth": "%s"}}}' "$PORT" "$(printf pull:s3cret | base64)" \
	>"$T/docker/config.json"
check "docker's config.json is read" pull basic
printf '{"auths": {"127.0.0.1:%s": {"identitytoken": "identity"}}}' "$PORT" >"$T/auth.json"
check "an identity token goes by OAuth2" pull identity --authfile "$T/auth.json"
mkdir "$T/bin"
printf '#!/bin/sh\nread -r host\n[ "$host" = "127.0.0.1:%s" ] && [ "$1" = get ] || exit 1\necho "{\\"Username\\": \\"pull\\", \\"Secret\\": \\"s3cret\\"}"\n' \
	"$PORT" >"$T/bin/docker-credential-test"
chmod +x "$T/bin/docker-credential-test"
printf '{"credHelpers": {"127.0.0.1:%s": "test"}}' "$PORT" >"$T/docker/config.json"
PATH=$T/bin:$PATH
check "a credential helper is asked" pull basic
printf '{"auths": ' >"$T/docker/config.json"
check "a malformed config.json is an error" refuses basic 'not valid JSON'
rm "$T/docker/config.json"

# Redirects.
check "a blob behind a redirect, with a password" pull basicredirect -u pull:s3cret
check "a blob behind a redirect, with a token" pull tokenredirect
check "the other host was asked" logged '.listener == "mirror"'
check_not "and got no Authorization" logged '.listener == "mirror" and .authorization != null'
check "a redirect to a host that asks for a password" refuses redirectauth 'asks for authentication' -u pull:s3cret
check_not "which learns nothing" logged '.listener == "mirror" and .authorization != null'
check "a redirect loop ends" refuses redirectloop 'more than 10 redirects'
check "a redirect to file:// is refused" refuses scheme 'rotocol'

# Failures that pass.
check "429 with Retry-After, and on" pull busy
check "a long Retry-After is reported, not waited for" refuses closed 'come back in 86400 s'
check "a reset and a 503, and on" pull shaky
check "500 for ever is given up" refuses broken 'gave up after 3 attempts' --retries 2
check "a broken body is resumed" pull truncate
check "by a closed range" logged '.path | startswith("/v2/truncate/")) and (.range // "" | test("^bytes=[1-9][0-9]*-[0-9]+$")'
check "resumed where ranges are ignored" pull norange
check "resumed where ranges are refused" pull range416
check "another range than asked for is refused" refuses wrongrange 'another range'
check "a body that never comes is given up" refuses always 'ended after\|closed\|gave up\|transfer'
check "a stall is resumed" pull stall --timeout 3
check "a drip is given up" refuses drip 'stalled\|ended after\|closed' --timeout 1

# Lies.
check "a flipped bit" refuses flip 'has the digest'
check "a longer body" refuses longer 'longer than'
check "a shorter body" refuses shorter 'were promised'
check "a size too large" refuses liesize 'were promised'
check "a size too small" refuses liesmall 'were promised'
check "a manifest that is not its digest" refuses liedigest 'its content is'
check "an index that lies about size" refuses indexsize 'promised'
check "an index without this platform names the others" refuses otherarch 'linux/riscv64'
check "schema 1" refuses schema1 'schema 1'
check "header and body contradict" refuses contradict 'contradicts\|says it is'
check "a manifest above 4 MiB" refuses bigmanifest 'too large'
check "the same, length untold" refuses bigchunked 'too large'
check "no JSON" refuses notjson 'not valid JSON'
check "a duplicate key" refuses duplicate 'not valid JSON'
check "an unknown layer type" refuses layertype 'media type'
check "an artifact that is no image" refuses artifact 'not a container image'
check "endless headers" refuses headers 'headers'
check "no such tag: exit status 3, the registry's words" refuses missing 'manifest unknown'
check "which is exit status 3" test "$status" = 3
check "denied" refuses denied 'access denied'

# TLS.
tls() {
	rm -rf "$T/store"
	smvm-pull --retries 1 "$@" >"$T/out" 2>"$T/err"
	status=$?
	sed 's/^/# /' "$T/out" "$T/err"
	return $status
}
tls_refuses() {
	words=$1
	shift
	tls "$@" && return 1
	grep -q -- "$words" "$T/err"
}
check "a certificate nobody vouches for is refused" tls_refuses certificate "127.0.0.1:$TLS/ok/x:1"
check "--cacert vouches for it" tls --cacert "$T/cert.pem" "127.0.0.1:$TLS/ok/x:1"
check "--insecure does not ask" tls --insecure "127.0.0.1:$TLS/ok/x:1"
check "loopback without TLS is spoken to plainly" tls "127.0.0.1:$PORT/ok/x:1"
check "a redirect from HTTPS to HTTP is refused" \
	tls_refuses 'from HTTPS' --cacert "$T/cert.pem" "127.0.0.1:$TLS/downgrade/x:1"
check "no password to a plain token service" \
	tls_refuses 'is not HTTPS' --cacert "$T/cert.pem" -u pull:s3cret "127.0.0.1:$TLS/plainrealm/x:1"
tap_done
