"""A small transformer that learns to sort digits, trained in PyTorch with popgrad's Lion; decay for matrices alone."""

import torch
from torch import nn

from popgrad.torch import Lion

torch.manual_seed(0)
torch.set_num_threads(1)  # more would only wait for each other with tensors this small
DIGITS, LENGTH, WIDTH = 10, 8, 32


class Sorter(nn.Module):
    """Reads digits and says, at every place, which digit belongs there."""

    def __init__(self) -> None:
        super().__init__()
        self.digit = nn.Embedding(DIGITS, WIDTH)
        self.place = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        block = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 1)
        self.head = nn.Linear(WIDTH, DIGITS)

    def forward(self, digits: torch.Tensor) -> torch.Tensor:
        """(count, LENGTH) -> (count, LENGTH, DIGITS)."""
        return self.head(self.blocks(self.digit(digits) + self.place))


model = Sorter()
matrices = [p for p in model.parameters() if p.ndim >= 2]
vectors = [p for p in model.parameters() if p.ndim < 2]
optimizer = Lion([{"params": matrices, "weight_decay": 0.1}, {"params": vectors}], lr=2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)

for step in range(1, 301):
    digits = torch.randint(DIGITS, (64, LENGTH))
    logits = model(digits)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), digits.sort(1).values.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 100 == 0:
        digits = torch.randint(DIGITS, (500, LENGTH))
        with torch.no_grad():
            right = (model(digits).argmax(2) == digits.sort(1).values).float().mean().item()
        print(f"step {step}: loss {loss.item():.3f}, digits in their place {right:.3f}")
