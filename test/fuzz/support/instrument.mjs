// Module hooks that count which branches of chosen modules run: each has a place in the table
// `globalThis.jitFluxCoverage`. The source is parsed and printed by the TypeScript compiler.
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/** @type {(string | RegExp)[]} */
let wanted = [];
/** @type {import('node:worker_threads').MessagePort | undefined} */
let port;
let places = 0;

/** @param {{ wanted: (string | RegExp)[], port: import('node:worker_threads').MessagePort }} data */
export function initialize(data) {
  ({ wanted, port } = data);
}

/** @type {import('node:module').LoadHook} */
export async function load(url, context, next) {
  const loaded = await next(url, context);
  const chosen = wanted.some((part) => (typeof part === 'string' ? url.includes(part) : part.test(url)));
  if (!chosen || loaded.format !== 'module' || !loaded.source) return loaded;
  const text = typeof loaded.source === 'string' ? loaded.source : new TextDecoder().decode(loaded.source);
  const first = places;
  const { source, words } = instrument(text, fileURLToPath(url));
  port?.postMessage({ file: fileURLToPath(url), places: [first, places], words });
  return { ...loaded, source };
}

/**
 * @param {string} text
 * @param {string} file
 */
function instrument(text, file) {
  const f = ts.factory;
  /** @type {Set<string>} */
  const words = new Set();
  const count = () =>
    f.createPostfixIncrement(f.createElementAccessExpression(f.createIdentifier('$counted'), places++));
  /** @param {ts.Expression} expression */
  const counted = (expression) => f.createParenthesizedExpression(f.createComma(count(), expression));
  /** @param {ts.Statement} [statement] */
  const block = (statement) => {
    const inside = statement === undefined ? [] : ts.isBlock(statement) ? statement.statements : [statement];
    return f.createBlock([f.createExpressionStatement(count()), ...inside], true);
  };
  /** @type {ts.TransformerFactory<ts.SourceFile>} */
  const transformer = (context) => {
    /** @type {(node: ts.Node) => ts.Node} */
    const visit = (node) => {
      if (ts.isStringLiteral(node) && node.text.length < 64) words.add(node.text);
      const n = ts.visitEachChild(node, visit, context);
      if (ts.isIfStatement(n)) {
        return f.updateIfStatement(n, n.expression, block(n.thenStatement), block(n.elseStatement));
      }
      if (ts.isConditionalExpression(n)) {
        return f.updateConditionalExpression(
          n,
          n.condition,
          n.questionToken,
          counted(n.whenTrue),
          n.colonToken,
          counted(n.whenFalse),
        );
      }
      if (ts.isBinaryExpression(n) && isShortCircuit(n.operatorToken.kind)) {
        return f.updateBinaryExpression(n, n.left, n.operatorToken, counted(n.right));
      }
      if (ts.isArrowFunction(n) && !ts.isBlock(n.body)) {
        return f.updateArrowFunction(
          n,
          n.modifiers,
          n.typeParameters,
          n.parameters,
          n.type,
          n.equalsGreaterThanToken,
          counted(n.body),
        );
      }
      if (ts.isForStatement(n)) {
        return f.updateForStatement(n, n.initializer, n.condition, n.incrementor, block(n.statement));
      }
      if (ts.isForOfStatement(n)) {
        return f.updateForOfStatement(n, n.awaitModifier, n.initializer, n.expression, block(n.statement));
      }
      if (ts.isForInStatement(n)) {
        return f.updateForInStatement(n, n.initializer, n.expression, block(n.statement));
      }
      if (ts.isWhileStatement(n)) return f.updateWhileStatement(n, n.expression, block(n.statement));
      if (ts.isDoStatement(n)) return f.updateDoStatement(n, block(n.statement), n.expression);
      if (ts.isCaseClause(n)) {
        return f.updateCaseClause(n, n.expression, [f.createExpressionStatement(count()), ...n.statements]);
      }
      if (ts.isDefaultClause(n)) {
        return f.updateDefaultClause(n, [f.createExpressionStatement(count()), ...n.statements]);
      }
      if (ts.isCatchClause(n)) return f.updateCatchClause(n, n.variableDeclaration, block(n.block));
      if (ts.isBlock(n) && ts.isFunctionLike(node.parent)) return block(n);
      return n;
    };
    return (root) => /** @type {ts.SourceFile} */ (ts.visitNode(root, visit));
  };
  const parsed = ts.createSourceFile(file, text, ts.ScriptTarget.ES2022, true, ts.ScriptKind.JS);
  const result = ts.transform(parsed, [transformer]);
  const printed = ts.createPrinter().printFile(/** @type {ts.SourceFile} */ (result.transformed[0]));
  return { source: `const $counted = globalThis.jitFluxCoverage;\n${printed}`, words: [...words] };
}

/** @param {ts.SyntaxKind} kind */
function isShortCircuit(kind) {
  return (
    kind === ts.SyntaxKind.AmpersandAmpersandToken ||
    kind === ts.SyntaxKind.BarBarToken ||
    kind === ts.SyntaxKind.QuestionQuestionToken
  );
}
