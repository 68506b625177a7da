"""Which packages cargo is to build for a test."""


def packages_for(package):
    """Those of `make test`, whose dependencies are built: each selection asks them for other features."""
    return ["--package", package] if package == "picket-tests" else ["--workspace", "--exclude", "picket-tests"]
