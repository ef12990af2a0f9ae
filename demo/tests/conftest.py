"""The demo's tests run offline, as the library's do."""

import tests.offline  # noqa: F401  (before anything imports a hub client)
