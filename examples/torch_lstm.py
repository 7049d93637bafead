"""An LSTM that learns to add the two marked numbers of a sequence, trained in PyTorch with popgrad's RMSprop."""

import torch
from torch import nn

from popgrad.torch import RMSprop

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only wait for each other with tensors this small
LENGTH = 12


def sequences(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers and marks, (count, LENGTH, 2), and the sum of the two marked numbers, (count,)."""
    numbers = torch.rand(count, LENGTH)
    marks = torch.zeros(count, LENGTH).scatter(1, torch.rand(count, LENGTH).topk(2).indices, 1.0)
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(1)


class Adder(nn.Module):
    """An LSTM whose last output is read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 24, batch_first=True)
        self.head = nn.Linear(24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(count, LENGTH, 2) -> (count,)."""
        return self.head(self.lstm(x)[0][:, -1]).squeeze(1)


model = Adder()
optimizer = RMSprop(model.parameters(), lr=3e-3, momentum=0.5)
X_test, y_test = sequences(500)
print(f"always saying 1: squared error {((y_test - 1) ** 2).mean():.4f}")

for step in range(1, 501):
    X, y = sequences(64)
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(X), y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 100 == 0:
        with torch.no_grad():
            error = nn.functional.mse_loss(model(X_test), y_test).item()
        print(f"step {step}: squared error {error:.4f}")
