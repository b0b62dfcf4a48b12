"""`python -m trimtab`, for where the script is not on the path."""

from trimtab.cli import main

main()
