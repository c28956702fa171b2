"""Feature flags inside an application: evaluated in its own process, without a request to anybody.

::

    from openfeature import api
    from crossfade.flags import CrossfadeProvider

    api.set_provider_and_wait(CrossfadeProvider())  # CROSSFADE_FLAGS_URL and CROSSFADE_FLAGS_TOKEN say where from
    api.get_client().get_boolean_value("new-checkout", False)

`docs/how-to/use-flags-in-python.md` goes on from here. What an application does not use is not imported.
"""

from __future__ import annotations

from crossfade.flags.exposure import AsgiVariants, Made, WsgiVariants, request
from crossfade.flags.provider import CrossfadeProvider

__all__ = ["AsgiVariants", "CrossfadeProvider", "Made", "WsgiVariants", "request"]
