"""Former name of `python -m medseg.serve.standins`."""

import sys

from medseg.serve.standins import python_path

if __name__ == "__main__":
    sys.stderr.write("warning: `python -m medseg.label.standins` is now `python -m medseg.serve.standins`\n")
    sys.stdout.write(python_path() + "\n")
