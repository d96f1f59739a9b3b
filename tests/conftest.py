"""What all tests share."""

# Imported before any test runs. Its plugin would import it at the very end otherwise, and on
# Python 3.11 parsing that much after gRPC's loops have run can fail with a SystemError.
import hypothesis

# No timed assertions: how long an example takes says what else the machine does.
hypothesis.settings.register_profile("sandglass", deadline=None)
hypothesis.settings.register_profile("fuzz", deadline=None, print_blob=True)
hypothesis.settings.load_profile("sandglass")
