"""Optimizers by name, and what is known about them without importing torch."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.entry import Method, Wrapping

OPTIMIZERS: Mapping[str, Method] = {
    # -- gradients and their averages
    "sgd": Method(
        "shoal.optim.sgd:SGD.rule",
        "SGD with optional momentum and weight decay",
        ("lr", "momentum"),
        state=lambda m, n: 0,
    ),
    "sgdw": Method(
        "shoal.optim.adamw:SGDW.rule",
        "momentum with decoupled weight decay",
        ("lr", "momentum"),
        state=lambda m, n: 4 * m * n,
        paper="adamw",
    ),
    "sgdp": Method(
        "shoal.optim.adamp:SGDP.rule",
        "SGD without the part of a step that only lengthens the weights",
        ("lr", "momentum"),
        state=lambda m, n: 0,
        paper="adamp",
        lr=0.1,
    ),
    "lars": Method(
        "shoal.optim.large_batch:LARS.rule",
        "momentum at a rate for each tensor, by its norm over its gradient's",
        state=lambda m, n: 4 * m * n,
        paper="large-batch-reality",
        lr=3.0,
    ),
    "lion": Method(
        "shoal.optim.lion:Lion.rule",
        "the sign of an average of gradients",
        state=lambda m, n: 4 * m * n,
        paper="lion",
    ),
    "novograd": Method(
        "shoal.optim.novograd:NovoGrad.rule",
        "momentum of gradients over a moving norm, one a tensor",
        state=lambda m, n: 4 * m * n,
        paper="novograd",
    ),
    "adasgd": Method(
        "shoal.optim.adasgd:AdaSGD.rule",
        "momentum over one second moment for the whole model",
        state=lambda m, n: 4 * m * n + 16,
        paper="adam-linf",
    ),
    # -- Adam and those before it
    "adagrad": Method(
        "shoal.optim.adagrad:Adagrad.rule",
        "gradients over the root of the sum of their squares",
        state=lambda m, n: 4 * m * n,
    ),
    "adadelta": Method("shoal.optim.adadelta:Adadelta.rule", "steps in the parameter's own units"),
    "rmsprop": Method(
        "shoal.optim.rmsprop:RMSProp.rule", "gradients over their root mean square", state=lambda m, n: 4 * m * n
    ),
    "adam": Method("shoal.optim.adam:Adam.rule", "averages of the gradient over those of its square", paper="adam"),
    "adamax": Method(
        "shoal.optim.adamax:AdaMax.rule", "Adam over a decaying maximum of the gradient's size", paper="adam"
    ),
    "nadam": Method("shoal.optim.nadam:NAdam.rule", "Adam with Nesterov's momentum"),
    "adamw": Method("shoal.optim.adamw:AdamW.rule", "Adam with decoupled weight decay", paper="adamw"),
    # -- Adam made to converge
    "amsgrad": Method(
        "shoal.optim.amsgrad:AMSGrad.rule",
        "Adam over the largest second moment so far",
        state=lambda m, n: 12 * m * n,
        paper="amsgrad",
    ),
    "adam-nc": Method("shoal.optim.amsgrad:AdamNC.rule", "Adam over the mean of all squares", paper="amsgrad"),
    "adopt": Method("shoal.optim.adopt:ADOPT.rule", "Adam over the second moment before this gradient", paper="adopt"),
    "radam": Method("shoal.optim.radam:RAdam.rule", "Adam rectified for its early variance", paper="radam"),
    "adabound": Method(
        "shoal.optim.adabound:AdaBound.rule",
        "Adam whose rates are clipped into a band that narrows to SGD's",
        paper="adabound",
    ),
    "amsbound": Method(
        "shoal.optim.adabound:AMSBound.rule",
        "AdaBound over the largest second moment so far",
        state=lambda m, n: 12 * m * n,
        paper="adabound",
    ),
    "adamod": Method(
        "shoal.optim.adamod:AdaMod.rule",
        "Adam whose rates stay below their own average",
        state=lambda m, n: 12 * m * n,
        paper="adamod",
    ),
    "swats": Method("shoal.optim.swats:SWATS.rule", "Adam that switches to SGD by itself", paper="swats"),
    # -- no learning rate
    "dog": Method(
        "shoal.optim.dog:DoG.rule",
        "SGD by the distance travelled over the gradients so far",
        state=lambda m, n: 4 * m * n,
        paper="dog",
        lr=1.0,
    ),
    "l-dog": Method(
        "shoal.optim.dog:LDoG.rule",
        "DoG for each tensor by itself",
        state=lambda m, n: 4 * m * n,
        paper="dog",
        lr=1.0,
    ),
    "d-adapt-sgd": Method(
        "shoal.optim.d_adaptation:DAdaptSGD.rule",
        "dual averaging with an estimated distance to the solution",
        paper="d-adaptation",
        lr=1.0,
    ),
    "d-adapt-adam": Method(
        "shoal.optim.d_adaptation:DAdaptAdam.rule",
        "Adam with an estimated distance to the solution",
        state=lambda m, n: 12 * m * n,
        paper="d-adaptation",
        lr=1.0,
    ),
    "momo": Method(
        "shoal.optim.momo:MoMo.rule",
        "momentum whose step size follows a model of the loss; lr is a cap",
        state=lambda m, n: 4 * m * n,
        paper="momo",
        needs="the loss",
        lr=1.0,
    ),
    "momo-adam": Method(
        "shoal.optim.momo:MoMoAdam.rule",
        "Adam whose step size follows a model of the loss; lr is a cap",
        paper="momo",
        needs="the loss",
    ),
    "sania": Method(
        "shoal.optim.sania:SANIA.rule",
        "Polyak steps under a preconditioner, without a rate",
        state=lambda m, n: 4 * m * n,
        paper="sania",
        needs="the loss",
        lr=1.0,
    ),
    # -- more than the gradient
    "adahessian": Method(
        "shoal.optim.adahessian:AdaHessian.rule",
        "Adam over the Hessian's diagonal, averaged over rows and windows",
        state=lambda m, n: 4 * m * n + 4 * m,
        paper="adahessian",
        needs="a loss with its graph: step(loss=loss)",
        lr=0.15,
    ),
    "adafisher": Method(
        "shoal.optim.adafisher:AdaFisher.rule",
        "momentum over factors of the layers' Fisher matrices",
        state=lambda m, n: 4 * m * n + 4 * (m + n),
        paper="adafisher",
        needs="the model, whose layers it watches",
    ),
    "adafisherw": Method(
        "shoal.optim.adafisher:AdaFisherW.rule",
        "AdaFisher with decoupled weight decay",
        state=lambda m, n: 4 * m * n + 4 * (m + n),
        paper="adafisher",
        needs="the model, whose layers it watches",
    ),
    # -- Adam changed
    "laprop": Method(
        "shoal.optim.laprop:LaProp.rule", "gradients are normalised first and averaged then", paper="laprop"
    ),
    "adam-atan2": Method("shoal.optim.adam_atan2:AdamAtan2.rule", "Adam with atan2 instead of eps", paper="adam-atan2"),
    "clipped-adam": Method(
        "shoal.optim.coordinate_clip:ClippedAdam.rule",
        "Adam whose first moment is of gradients without their largest coordinates",
        paper="directional-sharpness",
    ),
    "adamp": Method(
        "shoal.optim.adamp:AdamP.rule",
        "AdamW without the part of a step that only lengthens the weights",
        paper="adamp",
    ),
    "diffgrad": Method(
        "shoal.optim.diffgrad:DiffGrad.rule",
        "Adam times a friction where gradients hardly change",
        state=lambda m, n: 12 * m * n,
        paper="diffgrad",
    ),
    "exadam": Method("shoal.optim.exadam:EXAdam.rule", "Adam whose bias corrections are crossed", paper="exadam"),
    "fadam": Method(
        "shoal.optim.fadam:FAdam.rule", "Adam as natural gradient with the empirical Fisher", paper="fadam"
    ),
    "mars": Method(
        "shoal.optim.mars:MARS.rule",
        "AdamW, Lion or Shampoo on a gradient of less variance",
        state=lambda m, n: 12 * m * n,
        paper="mars",
    ),
    "adam-cm": Method(
        "shoal.optim.adam_cm:AdamCM.rule",
        "Adam plus the mean of a few remembered momenta",
        state=lambda m, n: 28 * m * n,
        paper="adam-cm",
    ),
    "coupled-adam": Method(
        "shoal.optim.coupled_adam:CoupledAdam.rule",
        "Adam with one second moment for all tokens of an embedding",
        paper="coupled-adam",
        needs="a group with embedding=True",
    ),
    "upgd": Method(
        "shoal.optim.upgd:UPGD.rule",
        "gradient and noise move what is of little use",
        state=lambda m, n: 4 * m * n,
        paper="upgd",
        lr=0.01,
    ),
    "ranger21": Method(
        "shoal.optim.ranger21:Ranger21.rule",
        "eight ideas and a schedule in one",
        state=lambda m, n: 20 * m * n,
        paper="ranger21",
        needs="number of steps (t_max)",
    ),
    "lamb": Method(
        "shoal.optim.large_batch:LAMB.rule",
        "Adam's step at lr times the length of each tensor",
        paper="large-batch-reality",
        lr=0.01,
    ),
    # -- a matrix for each side
    "shampoo": Method(
        "shoal.optim.shampoo:Shampoo.rule",
        "gradients between inverse roots of their second moments by rows and columns",
        state=lambda m, n: 8 * (m * m + n * n),
        lr=0.1,
    ),
    "soap": Method(
        "shoal.optim.soap:SOAP.rule",
        "Adam in the eigenbasis of Shampoo's factors",
        state=lambda m, n: 8 * m * n + 8 * (m * m + n * n),
        paper="soap",
    ),
    # -- less state
    "adam-mini": Method(
        "shoal.optim.adam_mini:AdamMini.rule",
        "AdamW with one second moment a block",
        state=lambda m, n: 4 * m * n + 4 * m,
        paper="adam-mini",
        needs="named parameters; dim and n_heads for attention",
    ),
    "adafactor": Method(
        "shoal.optim.adafactor:AdaFactor.rule",
        "second moments as rows and columns, steps relative to the weights",
        state=lambda m, n: 4 * (m + n),
    ),
    "adalomo": Method(
        "shoal.optim.adalomo:AdaLomo.rule",
        "AdaFactor within the backward pass",
        state=lambda m, n: 4 * (m + n),
        paper="adalomo",
        needs="steps within backward()",
    ),
    "lomo": Method(
        "shoal.optim.adalomo:LOMO.rule",
        "SGD within the backward pass",
        state=lambda m, n: 0,
        paper="adalomo",
        needs="steps within backward()",
        lr=0.1,
    ),
    "badam": Method(
        "shoal.optim.badam:BAdam.rule",
        "AdamW for one block of the parameters at a time",
        paper="badam",
        needs="named parameters; a torch loop (it freezes the others)",
        lr=1e-3,
    ),
    "microadam": Method(
        "shoal.optim.microadam:MicroAdam.rule",
        "Adam's moments rebuilt from a window of sparse gradients",
        state=lambda m, n: 0.9 * m * n,
        paper="microadam",
    ),
    "subset-norm": Method(
        "shoal.optim.subset_norm:SubsetNorm.rule",
        "Adam with one second moment a row or column",
        state=lambda m, n: 4 * m * n + 4 * max(m, n),
        paper="subset-norm",
    ),
    "subspace-momentum": Method(
        "shoal.optim.subset_norm:SubspaceMomentum.rule",
        "SGD whose momentum lives in a subspace",
        state=lambda m, n: 4 * min(128, m, n) * (m + n),
        paper="subset-norm",
        lr=0.1,
    ),
    "adam-snsm": Method(
        "shoal.optim.subset_norm:AdamSNSM.rule",
        "both: a subspace's momentum over few second moments",
        state=lambda m, n: 4 * min(128, m, n) * (m + n) + 4 * max(m, n),
        paper="subset-norm",
    ),
    "apollo": Method(
        "shoal.optim.apollo:APOLLO.rule",
        "gradients scaled as Adam scales a random projection, by channels",
        state=lambda m, n: 8 * 256 * max(m, n),
        paper="apollo",
    ),
    "apollo-mini": Method(
        "shoal.optim.apollo:APOLLOMini.rule",
        "the same with one scale a matrix",
        state=lambda m, n: 8 * max(m, n),
        paper="apollo",
    ),
}

WRAPPERS: Mapping[str, Wrapping] = {
    "lookahead": Wrapping(
        "shoal.optim.lookahead:lookahead", "k steps forward, a part of the way back", paper="lookahead"
    ),
    "cautious": Wrapping(
        "shoal.optim.cautious:cautious", "entries that go against the gradient stay", paper="cautious"
    ),
    "xgrad": Wrapping(
        "shoal.optim.xgrad:xgrad", "gradients are taken where the next step is expected to lead", paper="xgrad"
    ),
    "coordinate-clip": Wrapping(
        "shoal.optim.coordinate_clip:coordinate_clip",
        "the largest coordinates of the gradient are cut to the size of the next one",
        paper="directional-sharpness",
        needs="all gradients of the model at once",
    ),
    "rotated": Wrapping(
        "shoal.optim.rotated:rotated", "the coordinates are rotated at random, and stay so", paper="adam-linf"
    ),
    "ttur": Wrapping(
        "shoal.optim.ttur:ttur",
        "the maximising player of a game (or what `fast` names) has `ratio` times the other's rate",
        paper="ttur-fid",
        needs="a game of two players",
    ),
    "nino": Wrapping(
        "shoal.optim.nino:nino",
        "weights are forecast now and then",
        paper="nino",
        needs="a torch loop, the model, an example of its inputs, the number of steps",
    ),
}
AROUND_MODELS: Mapping[str, Wrapping] = {
    "mup": Wrapping(
        "shoal.optim.mup:mup",
        "muP: initial values and rates by width, so that settings of a narrow model are right for a wide one",
        paper="tp4b-mup-adam",
        needs="the model and a narrow one of its kind, in Python",
    ),
}
"""What goes around a model and its optimizer, in Python alone."""
