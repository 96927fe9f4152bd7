"""`python -m slmquant` is `slmquant`."""

from slmquant.cli import main

if __name__ == "__main__":
    main()
