"""What all tests share."""

# Imported before any test runs. Its plugin would import it at the very end otherwise, and on
# Python 3.11 parsing that much after gRPC's loops have run can fail with a SystemError.
import hypothesis

__all__ = ["hypothesis"]
