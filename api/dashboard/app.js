// The page: signed-out notice or the overview of the village.

import { html, render } from "./vendor/preact-htm.js";
import { AccuracyPanel } from "./components/accuracy.js";
import { ContractsPanel } from "./components/contracts.js";
import { DevicesPanel } from "./components/devices.js";
import { EventsPanel } from "./components/events.js";
import { HarvestPanel } from "./components/harvest.js";
import { Header, LinkBanner } from "./components/header.js";
import { RoundPanel } from "./components/round.js";
import { SignedOut } from "./components/signed_out.js";
import { TransfersPanel } from "./components/transfers.js";
import { start } from "./live.js";
import { joinRounds } from "./rounds.js";
import { useStore } from "./store.js";

function App() {
  const state = useStore();
  if (state.auth === "signed_out") return html`<${SignedOut} />`;
  const rounds = state.rounds === null && state.told.size === 0 ? null : joinRounds(state.rounds, state.told);
  return html`
    <a class="skip" href="#main">Skip to the round</a>
    <${Header} state=${state} />
    <${LinkBanner} state=${state} />
    <main id="main" class="grid" tabindex="-1">
      <${RoundPanel} state=${state} rounds=${rounds} />
      <${AccuracyPanel} rounds=${rounds} error=${state.errors.rounds} />
      <${DevicesPanel} state=${state} />
      <${HarvestPanel} state=${state} />
      <${ContractsPanel} state=${state} />
      <div class="aside">
        <${TransfersPanel} state=${state} />
        <${EventsPanel} state=${state} />
      </div>
    </main>
  `;
}

render(html`<${App} />`, document.getElementById("app"));
start();
