"""A simulator of Salesforce: REST, OAuth, Bulk 2.0, change events over CometD."""

from simulators.salesforce.simulator import SalesforceSimulator

__all__ = ["SalesforceSimulator"]
