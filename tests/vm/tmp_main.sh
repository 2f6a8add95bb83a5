. tests/lib/tap.sh
. tests/lib/image.sh
. tests/vm/machine.sh
image_python "$T/image" || exit 1
port=$(free_port)
registry_start "$T/registry" "$port" || exit 1
at_exit 'registry_stop "$T/registry"'
registry_push "$T/image/python:1" python:1 || exit 1
mkdir "$T/disk"
image=127.0.0.1:$port/python:1
smfs init "$T/disk/store"; smvm-pull --store "$T/disk/store" "$image"
MACHINE_TIMEOUT=500
machine_run "$T/disk" tests/vm/mainjob.sh "$image"
