"""One module a command: `arguments(parser)` and `main(given)`."""
