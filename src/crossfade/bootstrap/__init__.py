"""The only place where adapters are named: puts the parts together, and starts and stops an installation."""

from crossfade.bootstrap.doctor import doctor as doctor
from crossfade.bootstrap.flag_file import serve_flag_file as serve_flag_file
from crossfade.bootstrap.installation import down as down
from crossfade.bootstrap.installation import serving as serving
from crossfade.bootstrap.installation import start as start
from crossfade.bootstrap.installation import up as up
from crossfade.bootstrap.project import CONFIG_NAME as CONFIG_NAME
from crossfade.bootstrap.project import Package as Package
from crossfade.bootstrap.project import config_data as config_data
from crossfade.bootstrap.project import config_path as config_path
from crossfade.bootstrap.project import environments_of as environments_of
from crossfade.bootstrap.project import history as history
from crossfade.bootstrap.project import json_schema as json_schema
from crossfade.bootstrap.project import package as package
from crossfade.bootstrap.project import plan as plan
from crossfade.bootstrap.project import propose as propose
from crossfade.bootstrap.project import write_config as write_config
from crossfade.bootstrap.server import serve as serve
from crossfade.bootstrap.settings import DEFAULT_PORT as DEFAULT_PORT
from crossfade.bootstrap.settings import PLAIN as PLAIN
from crossfade.bootstrap.settings import Given as Given
from crossfade.bootstrap.state import default_state as default_state
from crossfade.bootstrap.state import verify_audit as verify_audit
from crossfade.bootstrap.verify import verify_offline as verify_offline
