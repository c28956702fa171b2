"""An application with our provider: says each time that a flag has become another variant, and when it saw that."""

from __future__ import annotations

import sys
import time

from openfeature import api

from crossfade.flags import CrossfadeProvider

api.set_provider_and_wait(CrossfadeProvider())
client, flag, last = api.get_client(), sys.argv[1], ""
while True:
    variant = client.get_boolean_details(flag, False).variant or "?"
    if variant != last:
        print(variant if not last else f"{variant} {time.time()}", flush=True)
        last = variant
    time.sleep(0.002)
