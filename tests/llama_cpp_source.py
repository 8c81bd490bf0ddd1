"""The source package on PyPI that carries llama.cpp: which one, where it lies inside, and how it is fetched and checked."""
import hashlib
import pathlib
import subprocess
import sys

VERSION = "0.3.36"
PACKAGE = f"llama-cpp-python=={VERSION}"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"  # of llama.cpp inside the archive


def download(folder):
    """Downloads the archive (73 MB) into the folder and returns its path; ends the program with a message if it cannot."""
    # pip asks the package for its metadata even if told to download only; that needs its build backend, not a build.
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--no-binary",
               "llama-cpp-python", "--dest", folder, PACKAGE]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if result.returncode != 0:
        sys.exit(f"pip could not download {PACKAGE}; is PyPI reachable? (command: {' '.join(map(str, command))})")
    archive = pathlib.Path(folder) / ARCHIVE
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{ARCHIVE}: SHA-256 is {found}, expected {SHA256}; the download is damaged or was changed: try again")
    return archive
