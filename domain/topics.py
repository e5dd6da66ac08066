"""Every context imported, so that every stored topic resolves: import this before reading the log."""

from domain.device_registry import device as device
from domain.device_registry import remeasurement as remeasurement
from domain.device_registry import reputation as reputation
from domain.federated_learning import round as round
from domain.federated_learning import session as session
from domain.harvest import device as harvest_device  # noqa: F401
from domain.harvest import session as harvest_session  # noqa: F401
from domain.marketplace import burst as burst
from domain.marketplace import contract as contract
from domain.marketplace import dealing as dealing
from domain.marketplace import hand_off as hand_off
from domain.marketplace import job as job
from domain.marketplace import offering as offering
from domain.marketplace import request as request
from domain.marketplace import workload as workload
from domain.monitoring import incident as incident
from domain.monitoring import projection as projection
from domain.privacy import budget as budget
from domain.privacy import subject as subject
from domain.sagas import coordinate_training as coordinate_training
from domain.sagas import deadline as deadline
from domain.sagas import process as process
from domain.sagas import reward_training as reward_training
from domain.tokenomics import issuance as issuance
from domain.tokenomics import reward_claim as reward_claim
from domain.tokenomics import reward_epoch as reward_epoch
from domain.tokenomics import transfer as transfer
from domain.tokenomics import wallet as wallet
