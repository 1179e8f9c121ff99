import type { DifferentialCase } from './cases.js'
import { type Difference, differences, type Observation, type Side } from './compare.js'
import { WebhookReceiver } from './receiver.js'
import { isLost, sendCase, until } from './send.js'
import type { RunningServer } from './servers.js'

export type Starters = Readonly<Record<Side, () => Promise<RunningServer>>>

/** What the two servers did about one case, and where they differ. */
export interface Outcome {
  readonly cog: Observation
  readonly ours: Observation
  readonly found: readonly Difference[]
}

/** How long webhooks may take that are not waited for. */
const WEBHOOK_MS = 1000
const QUIET_MS = 30

/** The two servers side by side, and the receiver of their webhooks. */
export class Comparison {
  readonly #starters: Starters
  readonly #servers: Record<Side, RunningServer>
  readonly #receiver: WebhookReceiver
  readonly #hooks: string
  /** Those with webhooks, to be compared again at the end. */
  readonly #outcomes: { readonly one: DifferentialCase; readonly outcome: Outcome; readonly calls: number }[] = []
  #count = 0

  private constructor(options: {
    starters: Starters
    servers: Record<Side, RunningServer>
    receiver: WebhookReceiver
    hooks: string
  }) {
    this.#starters = options.starters
    this.#servers = options.servers
    this.#receiver = options.receiver
    this.#hooks = options.hooks
  }

  static async start(starters: Starters): Promise<Comparison> {
    const receiver = new WebhookReceiver()
    const hooks = await receiver.listen()
    const [cog, ours] = await Promise.all([starters.cog(), starters.ours()])
    return new Comparison({ starters, servers: { cog, ours }, receiver, hooks })
  }

  /** Sends a case to both servers at the same time. One that has lost itself over it is started again. */
  async run(one: DifferentialCase): Promise<Outcome> {
    const number = this.#count++
    const [cog, ours] = await Promise.all([this.#send(one, 'cog', number), this.#send(one, 'ours', number)])
    await this.#webhooksCame(cog, ours)
    const outcome = { cog, ours, found: differences(cog, ours) }
    const calls = cog.webhooks.length + ours.webhooks.length
    if (calls > 0) this.#outcomes.push({ one, outcome, calls })
    return outcome
  }

  /** The cases whose webhooks were not all there when they were compared, compared again. */
  late(): { readonly one: DifferentialCase; readonly outcome: Outcome }[] {
    return this.#outcomes
      .filter(({ outcome: { cog, ours }, calls }) => cog.webhooks.length + ours.webhooks.length > calls)
      .map(({ one, outcome: { cog, ours } }) => ({ one, outcome: { cog, ours, found: differences(cog, ours) } }))
  }

  /** Waits until both servers have called as often, and neither calls any more; not for ever. */
  async #webhooksCame(cog: Observation, ours: Observation): Promise<void> {
    let calls = -1
    let since = performance.now()
    await until(() => {
      if (cog.webhooks.length + ours.webhooks.length !== calls) since = performance.now()
      calls = cog.webhooks.length + ours.webhooks.length
      if (cog.webhooks.length !== ours.webhooks.length) return false
      return calls === 0 || performance.now() - since > QUIET_MS
    }, WEBHOOK_MS)
  }

  async stop(): Promise<void> {
    await Promise.all([this.#servers.cog.stop(), this.#servers.ours.stop()])
    this.#receiver.close()
  }

  /** At once, for when this process ends early. */
  kill(): void {
    this.#servers.cog.kill()
    this.#servers.ours.kill()
  }

  async #send(one: DifferentialCase, side: Side, number: number): Promise<Observation> {
    const path = `/${side}/${number}`
    const answers = await sendCase(one, { url: this.#servers[side].url, hook: this.#hooks + path })
    if (answers.some(isLost)) {
      await this.#servers[side].stop()
      this.#servers[side] = await this.#starters[side]()
    }
    return { answers, webhooks: this.#receiver.calls(path) }
  }
}
