"""The use cases: what a person can ask of Crossfade. The API, the dashboard and, through the API, the CLI call these."""

from crossfade.service.service import Driver as Driver
from crossfade.service.service import Request as Request
from crossfade.service.service import Service as Service
