"""The account, its owners and pipelines: what a client reads to know where it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from starlette.responses import Response
from starlette.routing import Route

from simulators.base import answer
from simulators.hubspot.errors import not_found
from simulators.hubspot.gate import Gate, Visit
from simulators.hubspot.moments import spelt
from simulators.hubspot.objects import page_size
from simulators.hubspot.paths import DATED, paths
from simulators.hubspot.portal import Portal


class Account:
    """Handlers that read what the portal is."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    def routes(self, gate: Gate) -> list[Route]:
        """Return the paths, in both families."""
        owners = ("crm.objects.owners.read",)
        old, new = "/crm/v3", "/crm"
        pipelines = "/{type}"
        found = [
            *paths(gate(self.details, None), "GET", "/account-info/v3/details", f"/account-info/{DATED}/details"),
            *paths(
                gate(self.usage, None),
                "GET",
                "/account-info/v3/api-usage/daily/private-apps",
                f"/account-info/{DATED}/api-usage/daily/private-apps",
            ),
            *paths(gate(self.me, None), "GET", "/integrations/v1/me"),
            *paths(gate(self.owners, owners), "GET", f"{old}/owners", f"{old}/owners/", f"{new}/owners/{DATED}"),
            *paths(gate(self.owner, owners), "GET", f"{old}/owners/{{id}}", f"{new}/owners/{DATED}/{{id}}"),
        ]
        for rest, work in (
            ("", self.pipelines),
            ("/{pipeline}", self.pipeline),
            ("/{pipeline}/stages", self.stages),
            ("/{pipeline}/stages/{stage}", self.stage),
        ):
            spelt_paths = (f"{old}/pipelines{pipelines}{rest}", f"{new}/pipelines/{DATED}{pipelines}{rest}")
            found += paths(gate(work, "schema_read"), "GET", *spelt_paths)
        return found

    def details(self, visit: Visit) -> Response:  # noqa: ARG002
        """Answer what the account is."""
        options = self._portal.options
        return answer(
            {
                "portalId": options.portal_id,
                "accountType": "STANDARD",
                **self._zone(),
                "companyCurrency": options.currency,
                "additionalCurrencies": [],
                "uiDomain": "app.hubspot.com",
                "dataHostingLocation": "na1",
            }
        )

    def me(self, visit: Visit) -> Response:
        """Answer what the account is, in the older spelling."""
        options = self._portal.options
        own = {"portalId": options.portal_id, "appId": visit.grant.app_id, "currency": options.currency}
        return answer({**own, **self._zone()})

    def usage(self, visit: Visit) -> Response:  # noqa: ARG002
        """Answer how much of the day's calls has been used."""
        limits, now_ms = self._portal.limits, self._portal.now_ms()
        resets_at = spelt(int(limits.resets_at(self._portal.clock.now()) * 1000))
        entry = {
            "name": "private-apps-api-calls-daily",
            "usageLimit": self._portal.options.daily,
            "currentUsage": limits.used_today,
            "collectedAt": spelt(now_ms),
            "fetchStatus": "SUCCESS",
            "resetsAt": resets_at,
        }
        return answer({"results": [entry]})

    def owners(self, visit: Visit) -> Response:
        """Answer the owners, or the one with an e-mail address."""
        query = visit.request.query_params
        limit, after = page_size(query.get("limit"), 500, 100), query.get("after", "0")
        wanted = query.get("email")
        people = [o for o in self._portal.schema.owners if wanted is None or o["email"] == wanted.lower()]
        if visit.flag("archived"):
            people = []
        start = int(after) if after.isdecimal() else 0
        body: dict[str, Any] = {"results": people[start : start + limit]}
        if start + limit < len(people):
            body["paging"] = {"next": {"after": str(start + limit)}}
        return answer(body)

    def owner(self, visit: Visit) -> Response:
        """Answer one owner, by id or by user id."""
        by = "userId" if visit.request.query_params.get("idProperty") == "userId" else "id"
        wanted = visit.request.path_params["id"]
        for owner in self._portal.schema.owners:
            if str(owner[by]) == wanted:
                return answer(owner)
        raise not_found(wanted)

    def pipelines(self, visit: Visit) -> Response:
        """Answer the pipelines of a kind."""
        return answer({"results": self._portal.schema.pipelines.get(visit.kind().name, [])})

    def pipeline(self, visit: Visit) -> Response:
        """Answer one pipeline."""
        return answer(self._pipeline(visit))

    def stages(self, visit: Visit) -> Response:
        """Answer the stages of a pipeline."""
        return answer({"results": self._pipeline(visit)["stages"]})

    def stage(self, visit: Visit) -> Response:
        """Answer one stage."""
        wanted = visit.request.path_params["stage"]
        for stage in self._pipeline(visit)["stages"]:
            if stage["id"] == wanted:
                return answer(stage)
        raise not_found(wanted)

    def _pipeline(self, visit: Visit) -> dict[str, Any]:
        wanted = visit.request.path_params["pipeline"]
        for pipeline in self._portal.schema.pipelines.get(visit.kind().name, []):
            if pipeline["id"] == wanted:
                return pipeline
        raise not_found(wanted)

    def _zone(self) -> dict[str, Any]:
        options = self._portal.options
        offset = datetime.fromtimestamp(self._portal.clock.now(), ZoneInfo(options.time_zone)).utcoffset()
        seconds = 0 if offset is None else int(offset.total_seconds())
        sign, minutes = "-" if seconds < 0 else "+", abs(seconds) // 60
        return {
            "timeZone": options.time_zone,
            "utcOffset": f"{sign}{minutes // 60:02d}:{minutes % 60:02d}",
            "utcOffsetMilliseconds": seconds * 1000,
        }
