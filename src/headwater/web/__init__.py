"""The workbench in a browser: routes and pages over what the lower floors compute. Needs the extra `web`."""
