#!/usr/bin/env bash
# Make sure that the few system packages are there: Python's venv, and libusb for open3d.
# Installs them where apt is ours (root); elsewhere says what is missing and stops.
set -eu
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null || ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
    echo "found $("$python" --version 2>&1 || echo "no $python"), but scenerl needs Python 3.11 or 3.12; set PYTHON=python3.11" >&2
    exit 69
fi

missing=()
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=("python3-venv")
"$python" -c 'import ctypes; ctypes.CDLL("libusb-1.0.so.0")' 2>/dev/null || missing+=("libusb-1.0-0")
command -v g++ >/dev/null || missing+=("g++")
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "missing system packages: ${missing[*]}" >&2
    echo "install them, then run make again:  sudo apt-get install ${missing[*]}" >&2
    exit 69
fi
