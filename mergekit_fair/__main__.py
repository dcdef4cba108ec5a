"""`python -m mergekit_fair …`, for launchers such as `torchrun -m`."""

from mergekit_fair.cli import main

if __name__ == "__main__":
    main()
