"""OpenStack Keystone in one directory: `python keystone_server.py DIRECTORY`, in the virtual environment target/objects.

Prints one line of JSON when it answers, and ends when its standard input does. User and project `admin` have the password `admin-77`.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

PASSWORD = "admin-77"


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def set_up(base, url):
    for name in ("fernet", "credential"):
        (base / name).mkdir(parents=True, mode=0o700)
    configuration = base / "keystone.conf"
    configuration.write_text(f"""
[DEFAULT]
log_file = {base}/log
[database]
connection = sqlite:///{base}/keystone.db
[fernet_tokens]
key_repository = {base}/fernet
[credential]
key_repository = {base}/credential
[cache]
enabled = false
""")
    manage = [sys.executable, str(Path(sys.executable).parent / "keystone-manage"), "--config-file", str(configuration)]
    me = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    for command in (["db_sync"], ["fernet_setup", *me], ["credential_setup", *me],
                    ["bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-public-url", f"{url}/v3", "--bootstrap-internal-url", f"{url}/v3",
                     "--bootstrap-region-id", "RegionOne"]):
        subprocess.run(manage + command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return configuration


def main(directory):
    base = Path(directory)
    # The port is known before the application is made.
    server = make_server("127.0.0.1", 0, None, Server, Quiet)
    url = f"http://127.0.0.1:{server.server_port}"
    configuration = set_up(base, url)
    os.environ["OS_KEYSTONE_CONFIG_DIR"] = str(base)
    sys.argv = ["keystone", "--config-file", str(configuration)]
    from keystone.server.wsgi import initialize_public_application
    server.set_app(initialize_public_application())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": url, "password": PASSWORD}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
