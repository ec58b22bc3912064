"""python -m gpu_run, with bench/ on the path. Old Pythons read this file too: they are told what is needed."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - it may not be installed, so nothing has checked it yet
    sys.stderr.write("make gpu: rst needs Python 3.11 or newer; this is %d.%d\n" % sys.version_info[:2])  # noqa: UP031
    sys.exit(2)

from .command import main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
