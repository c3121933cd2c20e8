"""`vision-peft convert`, started from a clone."""

import sys

from vision_peft.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
