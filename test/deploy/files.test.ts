import { existsSync, readFileSync } from 'node:fs'
import t from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { serverSettings } from '../../server/config.js'

const root = new URL('../../', import.meta.url)
const read = (path: string) => readFileSync(new URL(path, root), 'utf8')
const drainSeconds = serverSettings.shape.DRAIN_SECONDS.parse(undefined)
/** Beyond the drain's limit: the cancel, and the teardown. */
const least = drainSeconds + 5

t.test('the CUDA provider is of the version of onnxruntime-node, whose library it is loaded beside', async (t) => {
  const { dependencies } = JSON.parse(read('package.json')) as { dependencies: Record<string, string> }
  const provider = /^onnxruntime-gpu==(\S+)/m.exec(read('deploy/cuda-libraries.txt'))?.[1]
  t.equal(provider, dependencies['onnxruntime-node'])
})

t.test('every CUDA library is pinned by version and hash', async (t) => {
  const lines = read('deploy/cuda-libraries.txt')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
  t.equal(lines.length, 4)
  for (const line of lines) t.match(line, /^[a-z-]+==\d+(\.\d+)+ --hash=sha256:[0-9a-f]{64}$/)
})

t.test(
  'every file that the Dockerfile copies from the context is there, and let through by .dockerignore',
  async (t) => {
    const weights = /^ARG WEIGHTS=(\S+)$/m.exec(read('Dockerfile'))![1]!
    const steps = read('Dockerfile').replaceAll(/\$\{WEIGHTS\}/g, weights)
    const paths = [...steps.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, words]) => words!.split(' '))
    const allowed = read('.dockerignore')
      .split('\n')
      .filter((line) => line.startsWith('!'))
      .map((line) => line.slice(1))
    t.ok(paths.length > 10)
    for (const path of paths) {
      t.ok(
        allowed.some((entry) => path === entry || path.startsWith(`${entry}/`)),
        `.dockerignore lets ${path} through`,
      )
      if (path !== weights) t.ok(existsSync(new URL(path, root)), `${path} exists`)
    }
  },
)

t.test('a plain build makes the CPU image: it is the last stage', async (t) => {
  const stages = [...read('Dockerfile').matchAll(/^FROM (\S+) AS (\S+)$/gm)]
  t.equal(stages.at(-1)![2], 'cpu')
  // The one base that is not made here is named once, so that a digest has one place.
  t.same(
    stages.map(([, base]) => base!).filter((base) => !stages.some(([, , name]) => name === base)),
    ['node:24-bookworm-slim'],
  )
})

t.test('Compose lets predictions drain, and makes the targets that there are', async (t) => {
  const { services } = parse(read('deploy/compose.yaml'), { merge: true }) as {
    services: Record<string, { stop_grace_period: string; build: { target: string }; profiles: string[] }>
  }
  t.same(Object.keys(services), ['cpu', 'cuda'])
  for (const [name, service] of Object.entries(services)) {
    t.ok(Number.parseInt(service.stop_grace_period, 10) > least, `${name}: ${service.stop_grace_period}`)
    t.equal(service.build.target, name)
    t.same(service.profiles, [name])
    t.match(read('Dockerfile'), new RegExp(`^FROM bezel AS ${name}$`, 'm'))
  }
})

t.test('Kubernetes lets predictions drain, runs no root, and sends requests to a ready pod only', async (t) => {
  const documents = parseAllDocuments(read('deploy/kubernetes/bezel.yaml')).map((document) => document.toJS())
  t.same(
    documents.map(({ kind }) => kind),
    ['PersistentVolumeClaim', 'Deployment', 'Service'],
  )
  const pod = documents[1].spec.template.spec
  t.ok(pod.terminationGracePeriodSeconds > least)
  t.equal(pod.securityContext.runAsNonRoot, true)
  const [container] = pod.containers
  t.equal(container.securityContext.readOnlyRootFilesystem, true)
  t.equal(container.livenessProbe.httpGet.path, '/livez')
  t.equal(container.readinessProbe.httpGet.path, '/readyz')
  t.equal(container.volumeMounts[0].mountPath, '/models')
})
