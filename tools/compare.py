"""`vision-peft compare`, started from a clone."""

import sys

from vision_peft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
