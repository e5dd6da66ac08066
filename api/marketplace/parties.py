"""Who may see what is between a provider and a customer: the two, and operators."""

from api.edge.graphql import Condition, Info, require


def parties(info: Info) -> list[Condition]:
    """Which contracts and jobs one may see."""
    principal = require(info, "operator", "member")
    if principal.role == "operator":
        return []
    me = principal.owner
    return [
        Condition(
            "(provider_id = %(me)s OR customer_id = %(me)s)",
            {"me": me},
            lambda row: me is not None and me in (row.provider_id, row.customer_id),
        )
    ]
