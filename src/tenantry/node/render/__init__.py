"""PURE: desired state in, text of files out.

Owns: what nginx.conf, emperor.ini, a vassal's ini and site.<generation>.json say. May import: `tenantry.spec`, the
layout. Must never do I/O. Into nginx's and uWSGI's files go only integers, slugs and the home's checked path: the
signatures take nothing else. What people typed goes into site.<generation>.json, which no one interpolates.
"""
