"""Superset on this machine alone: its own database is a file, and nothing is told to anybody."""

import os

SQLALCHEMY_DATABASE_URI = f"sqlite:///{os.environ['SUPERSET_HOME']}/superset.db"
TALISMAN_ENABLED = False
