"""Submit the recipe as an administrator, follow it, and submit it again if the server gave it up."""

import sys
import time

from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.recipe.prod_env import ProdEnv
from recipe import recipe_of
from work import Work

work = Work.from_arguments()
kit, user = sys.argv[3:]
sites = len(work.clients)
status = None
while status != "FINISHED:COMPLETED":
    try:
        session = new_secure_session(user, kit)
        while len(session.get_system_info().client_info) < sites:
            time.sleep(1)
        session.close()
        run = recipe_of(work).execute(ProdEnv(kit, username=user))
        while not (status := run.get_status() or "").startswith("FINISHED"):
            time.sleep(2)
    except Exception as error:  # NVFlare has no one base of its errors
        print(f"submitted again after: {error}", flush=True)
        time.sleep(3)
    print(status, flush=True)
time.sleep(3600)
