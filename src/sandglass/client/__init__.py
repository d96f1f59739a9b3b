"""The client: sessions, batching, consumers. It knows no server package."""

# Before any module here imports gRPC, which reads its environment then.
from sandglass.client import forking as forking
