"""SOAP login with user name, password and security token, which old clients still begin with. Nothing else of SOAP is here."""

from __future__ import annotations

import hmac
import re
from html import escape, unescape

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulators.salesforce.oauth import OAuth, instance
from simulators.salesforce.org import Org
from simulators.salesforce.sessions import Session, Sessions

_LAST = 64
"""The last version that offers it."""
_ELEMENT = r"<(?:\w+:)?{0}>(.*?)</(?:\w+:)?{0}>"
_ANSWER = """<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" \
xmlns="urn:partner.soap.sforce.com" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><loginResponse><result>\
<metadataServerUrl>{base}/services/Soap/m/{version}/{org}</metadataServerUrl><passwordExpired>false</passwordExpired>\
<sandbox>false</sandbox><serverUrl>{base}/services/Soap/u/{version}/{org}</serverUrl><sessionId>{session}</sessionId>\
<userId>{user}</userId><userInfo><organizationId>{org}</organizationId><organizationName>{name}</organizationName>\
<sessionSecondsValid>{seconds:.0f}</sessionSecondsValid><userId>{user}</userId><userName>{username}</userName></userInfo>\
</result></loginResponse></soapenv:Body></soapenv:Envelope>"""
_FAULT = """<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" \
xmlns:sf="urn:fault.partner.soap.sforce.com" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault>\
<faultcode>sf:{code}</faultcode><faultstring>{code}: {message}</faultstring><detail><sf:LoginFault xsi:type="sf:LoginFault">\
<sf:exceptionCode>{code}</sf:exceptionCode><sf:exceptionMessage>{message}</sf:exceptionMessage></sf:LoginFault></detail>\
</soapenv:Fault></soapenv:Body></soapenv:Envelope>"""


class Soap:
    """The login call of the partner and the enterprise API."""

    def __init__(self, org: Org, sessions: Sessions, oauth: OAuth) -> None:
        self._org = org
        self._sessions = sessions
        self._oauth = oauth
        self._tokens: dict[str, str] = {}

    def routes(self) -> list[Route]:
        """Return the paths."""
        return [Route(f"/services/Soap/{api}/{{version}}", self._login, methods=["POST"]) for api in ("u", "c")]

    async def _login(self, request: Request) -> Response:
        text, version = (await request.body()).decode(errors="replace"), request.path_params["version"]
        if "login" not in text or not re.fullmatch(r"\d\d\.0", version):
            return _fault("INVALID_OPERATION", "the simulator knows no SOAP call but login")
        if int(version[:2]) > _LAST:
            return _fault("UNSUPPORTED_API_VERSION", f"login() is not offered from version {_LAST + 1}.0 on; use OAuth")
        username, password = (_value(text, name) for name in ("username", "password"))
        user = self._oauth.user_named(username)
        known = [self._oauth.password + self._oauth.security_token, self._oauth.password]
        if user is None or not any(hmac.compare_digest(password.encode(), k.encode()) for k in known):
            return _fault("INVALID_LOGIN", "Invalid username, password, security token; or user locked out.")
        session = self._session(user)
        content = _ANSWER.format(
            base=escape(instance(request)),
            version=version,
            org=self._org.id,
            session=escape(session.token),
            user=user,
            name=escape(self._org.name),
            seconds=self._sessions.ends(session) - session.used,
            username=escape(username),
        )
        return Response(content, media_type="text/xml;charset=UTF-8")

    def _session(self, user: str) -> Session:
        """Return the user's live session: who signs in again gets the same one."""
        session = self._sessions.find(self._tokens.get(user, ""))
        if session is None:
            session = self._sessions.issue(self._sessions.grant("SOAP", user, "api", refreshable=False))
            self._tokens[user] = session.token
        return session


def _value(text: str, name: str) -> str:
    match = re.search(_ELEMENT.format(name), text, re.DOTALL)
    return unescape(match[1]) if match is not None else ""


def _fault(code: str, message: str) -> Response:
    return Response(_FAULT.format(code=code, message=escape(message)), 500, media_type="text/xml;charset=UTF-8")
