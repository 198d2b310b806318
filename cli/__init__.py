"""The command line of sharpkeras; it installs as the package `sharpkeras_cli`."""
