"""`python -m shoal`, and so `torchrun … -m shoal`: the `shoal` command."""

from shoal.cli import main

if __name__ == "__main__":
    main()
