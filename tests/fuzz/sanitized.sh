#!/bin/sh
# Fuzz with compiled code that ends the process where it reads or writes outside of its buffers, or behaves as C++ does not say:
#
#     tests/fuzz/sanitized.sh tests/fuzz/fuzz_rate.py -atheris_runs=100000
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/c++" <<END
#!/bin/sh
unset LD_PRELOAD
exec g++ -g -fsanitize=address,undefined -fno-sanitize-recover=all "\$@"
END
chmod +x "$folder/c++"
CXX="$folder/c++" PLAIT_CACHE="$folder/cache" ASAN_OPTIONS=detect_leaks=0 \
    LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" "${PYTHON:-python}" "$@"
