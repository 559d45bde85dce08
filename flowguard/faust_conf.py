"""Faust's own settings in an app of flowguard: the same values, and where each came from.

Beside Faust's variables, `FLOWGUARD_BROKER` and `FLOWGUARD_BROKER_*` are read here, so that
every command, and `faust worker` too, talks to the same broker in the same way.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Final

from faust.auth import Credentials, SASLCredentials, SSLCredentials
from faust.exceptions import AlreadyConfiguredWarning
from faust.types.settings import Settings
from yarl import URL

from flowguard.config import read_variable
from flowguard.errors import ConfigError
from flowguard.observe.logs import hide_authentication
from flowguard.security import BrokerSecurity, read_security, without_user

__all__ = ["FaustConf"]

#: Addresses of brokers.
ADDRESSES: Final = ("broker", "broker_consumer", "broker_producer")

hide_authentication()


class FaustConf(Settings):
    """`faust.Settings` that knows which of them somebody set.

    `origins` has the name of each setting that is not left at its default, with the place
    it was set: `code`, the name of a variable, or what `change` was told.

    In `kafka://user:password@host` neither Faust nor Kafka reads user and password. They are
    taken away before anything can show them; `had_user` tells that they were there.
    """

    had_user = False

    def getenv(self, env_name: str) -> Any:
        """Return the value of one of Faust's variables."""
        value = super().getenv(env_name)
        ours = {self.SETTINGS[name].env_name for name in ADDRESSES}
        return self._without_user(value) if env_name in ours else value

    def _without_user(self, value: Any) -> Any:
        """Return an address, or several, as text or not, without user and password."""
        if value is None or not isinstance(value, (str, URL, list, tuple)):
            return value  # Faust says what is wrong with it
        if not isinstance(value, (str, URL)):
            return [self._without_user(each) for each in value]
        bare = without_user(str(value))
        if bare == str(value):
            return value
        self.__dict__["had_user"] = True
        return bare

    def _init_settings(self, kwargs: dict[str, Any]) -> None:
        for name in kwargs.keys() & set(ADDRESSES):
            kwargs[name] = self._without_user(kwargs[name])
        super()._init_settings(kwargs)  # adds to kwargs what Faust's own variables say
        self._origins = {
            name: self._variable(name) or "code"
            for name, value in kwargs.items()
            if name in self.SETTINGS and value is not None
        }
        self._read_flowguard_variables()

    def _variable(self, name: str) -> str | None:
        """Return the variable that sets a setting now."""
        variable = self.SETTINGS[name].env_name
        return variable if variable is not None and self.getenv(variable) is not None else None

    def _read_flowguard_variables(self) -> None:
        broker = read_variable(os.environ, "FLOWGUARD_BROKER")
        if broker:
            self.change("broker", broker, origin="FLOWGUARD_BROKER")
        security = read_security(os.environ)
        if security is not None:
            self.change("broker_credentials", credentials(security), origin="FLOWGUARD_BROKER_*")
            if self.ssl_context is not None:
                self.change("ssl_context", None, origin="FLOWGUARD_BROKER_*")

    def __setattr__(self, key: str, value: Any) -> None:
        if key in ADDRESSES:
            value = self._without_user(value)
        super().__setattr__(key, value)
        if key in self.SETTINGS and "_origins" in self.__dict__:
            self._origins[key] = "code"

    def change(self, name: str, value: Any, *, origin: str) -> None:
        """Set a setting from outside of the program, and note from where.

        Raises:
            ConfigError: It is no value for it.
        """
        with warnings.catch_warnings():
            # Faust warns about settings that were read before they change; whoever calls
            # this knows who has read them.
            warnings.simplefilter("ignore", AlreadyConfiguredWarning)
            try:
                setattr(self, name, value)
            except ValueError as error:
                raise ConfigError(f"{origin}: this is no {name}: {error}") from error
        self._origins[name] = origin

    @property
    def origins(self) -> dict[str, str]:
        """Return setting → where it was set, for all that somebody set."""
        return dict(self._origins)


def credentials(security: BrokerSecurity) -> Credentials | None:
    """Return the credentials as Faust wants them, None for an open connection."""
    context = security.ssl_context()
    if security.uses_sasl:
        assert security.password is not None
        return SASLCredentials(
            username=security.username,
            password=security.password.reveal(),
            mechanism=security.mechanism,
            ssl_context=context,
        )
    return None if context is None else SSLCredentials(context)
