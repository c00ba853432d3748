"""``python -m unlabel`` is the command ``unlabel``; torchrun and accelerate launch it so."""

from unlabel.cli import main

if __name__ == "__main__":
    main()
