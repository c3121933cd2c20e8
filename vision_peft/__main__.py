"""`python -m vision_peft VERB`, which torchrun starts: `torchrun --nproc_per_node=2 -m vision_peft train`."""

import sys

from vision_peft.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
