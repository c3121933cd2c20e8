"""`vision-peft doctor`, started from a clone."""

import sys

from vision_peft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
