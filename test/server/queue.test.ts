import fc from 'fast-check'
import t from 'tap'
import { Queue } from '../../server/queue.js'

interface Model {
  readonly limit: number
  waiting: number[]
  next: number
}

class Add implements fc.Command<Model, Queue<number>> {
  check = () => true
  run(model: Model, queue: Queue<number>): void {
    const entry = model.next++
    const fits = model.waiting.length < model.limit
    if (fits) model.waiting.push(entry)
    if (queue.add(entry) !== fits) throw new Error(`add(${entry}) must be ${fits}`)
    agree(model, queue)
  }
  toString = () => 'add'
}

class Take implements fc.Command<Model, Queue<number>> {
  check = () => true
  run(model: Model, queue: Queue<number>): void {
    const want = model.waiting.shift()
    const got = queue.take()
    if (got !== want) throw new Error(`took ${got}, but ${want} came first`)
    agree(model, queue)
  }
  toString = () => 'take'
}

class Remove implements fc.Command<Model, Queue<number>> {
  readonly entry: number
  constructor(entry: number) {
    this.entry = entry
  }
  check = () => true
  run(model: Model, queue: Queue<number>): void {
    const waits = model.waiting.includes(this.entry)
    model.waiting = model.waiting.filter((entry) => entry !== this.entry)
    if (queue.remove(this.entry) !== waits) throw new Error(`remove(${this.entry}) must be ${waits}`)
    agree(model, queue)
  }
  toString = () => `remove(${this.entry})`
}

function agree(model: Model, queue: Queue<number>): void {
  const order = [...queue]
  if (JSON.stringify(order) !== JSON.stringify(model.waiting)) throw new Error(`${order} instead of ${model.waiting}`)
  if (queue.length !== order.length || queue.length > queue.limit) throw new Error(`length ${queue.length}`)
  for (const [index, entry] of order.entries()) {
    if (queue.position(entry) !== index + 1) throw new Error(`position of ${entry} is ${queue.position(entry)}`)
  }
}

t.test('first come is first served, none is lost or served twice, and never more wait than may', async () => {
  const commands = fc.commands(
    [
      fc.constant(new Add()),
      fc.constant(new Add()),
      fc.constant(new Take()),
      fc.nat(30).map((entry) => new Remove(entry)),
    ],
    { maxCommands: 60 },
  )
  fc.assert(
    fc.property(fc.nat(6), commands, (limit, run) => {
      fc.modelRun(() => ({ model: { limit, waiting: [], next: 0 }, real: new Queue<number>(limit) }), run)
    }),
  )
})

t.test('who does not wait has no position', async (t) => {
  const queue = new Queue<string>(1)
  queue.add('a')
  t.notOk(queue.add('b'))
  t.equal(queue.position('b'), undefined)
})

t.test('the estimate follows the last runs, the position and the slots', async (t) => {
  const queue = new Queue<string>(1)
  t.equal(queue.estimateMs(1, 4), undefined, 'nothing is known yet')
  queue.recordRun(1000)
  t.equal(queue.estimateMs(1, 1), 1000)
  t.equal(queue.estimateMs(6, 4), 1500)
  for (let i = 0; i < 50; i++) queue.recordRun(100)
  t.ok(queue.estimateMs(1, 1)! < 110)
})

t.test('what waits is bounded in bytes, too, and what leaves makes room', async (t) => {
  const queue = new Queue<string>(10, 100)
  t.ok(queue.add('a', 60))
  t.notOk(queue.add('b', 41))
  t.ok(queue.add('c', 40))
  t.notOk(queue.fits(1))
  t.equal(queue.take(), 'a')
  t.ok(queue.fits(60))
  queue.remove('c')
  queue.remove('c')
  t.ok(queue.fits(100))
  t.notOk(queue.fits(101))
})
