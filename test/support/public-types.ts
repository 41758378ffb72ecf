/** The types that users see: a walk over the declarations in dist/, as the compiler reads them. */
import { dirname, join } from 'node:path';
import ts from 'typescript';

import { PACKAGE_ROOT } from '../../src/files/package-files.js';

const DIST = join(PACKAGE_ROOT, 'dist');
export const ENTRIES = ['index.d.ts', 'sampler/index.d.ts'].map((name) => join(DIST, name));

/** What was found of one kind; each as `FluxPipeline.load(o).device`. */
export interface Findings {
  /** Optional fields that callers give, and that do not take `undefined`. */
  withoutUndefined: string[];
  /** Tuples that callers give, and that are not readonly. */
  mutableTuples: string[];
  /** Exported classes that anybody may construct. */
  constructible: string[];
  /** How many fields were looked at. */
  fields: number;
}

/** Looks at everything that a caller hands over: arguments of functions, constructors and methods, and what is in them. */
export function walkPublicTypes(entries: readonly string[] = ENTRIES): Findings {
  const program = ts.createProgram([...entries], {
    strict: true,
    exactOptionalPropertyTypes: true,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
    types: ['node'],
    skipLibCheck: true,
    noEmit: true,
  });
  const walk = new Walk(program);
  for (const entry of entries) walk.entry(program.getSourceFile(entry)!);
  const { withoutUndefined, mutableTuples, constructible, fields } = walk;
  return {
    withoutUndefined: [...withoutUndefined].sort(),
    mutableTuples: [...mutableTuples].sort(),
    constructible: [...constructible].sort(),
    fields,
  };
}

/** Packages other than Node's types that the declarations of an entry point import, each as `file imports package`. */
export function importedPackages(entries: readonly string[] = ENTRIES): string[] {
  const found = new Set<string>();
  const seen = new Set<string>();
  const visit = (path: string): void => {
    if (seen.has(path)) return;
    seen.add(path);
    const text = ts.sys.readFile(path);
    if (text === undefined) throw new Error(`${path} does not exist`);
    const { importedFiles, typeReferenceDirectives } = ts.preProcessFile(text, true, true);
    for (const { fileName } of [...importedFiles, ...typeReferenceDirectives]) {
      if (fileName.startsWith('.')) visit(join(dirname(path), fileName).replace(/\.([cm]?)js$/, '.d.$1ts'));
      else if (!/^node(:|$)/.test(fileName)) found.add(`${path.slice(DIST.length + 1)} imports ${fileName}`);
    }
  };
  entries.forEach(visit);
  return [...found].sort();
}

class Walk {
  readonly withoutUndefined = new Set<string>();
  readonly mutableTuples = new Set<string>();
  readonly constructible = new Set<string>();
  fields = 0;
  readonly #checker: ts.TypeChecker;
  readonly #roots: ReadonlySet<string>;
  readonly #taken = new Set<ts.Type>();
  readonly #given = new Set<ts.Type>();

  constructor(program: ts.Program) {
    this.#checker = program.getTypeChecker();
    this.#roots = new Set(program.getRootFileNames().map((name) => dirname(name)));
  }

  entry(file: ts.SourceFile): void {
    const module = this.#checker.getSymbolAtLocation(file)!;
    for (const exported of this.#checker.getExportsOfModule(module)) {
      const symbol =
        exported.flags & ts.SymbolFlags.Alias ? this.#checker.getAliasedSymbol(exported) : exported;
      if (!(symbol.flags & ts.SymbolFlags.Value)) continue;
      const type = this.#checker.getTypeOfSymbol(symbol);
      if (symbol.flags & ts.SymbolFlags.Class) {
        for (const signature of this.#publicConstructors(type)) {
          this.constructible.add(symbol.name);
          this.#signature(signature, `new ${symbol.name}`);
        }
        this.#give(this.#checker.getDeclaredTypeOfSymbol(symbol), symbol.name);
      }
      this.#give(type, symbol.name);
    }
  }

  #publicConstructors(type: ts.Type): ts.Signature[] {
    return type.getConstructSignatures().filter(({ declaration }) => {
      const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
      return !declaration || !(ts.getCombinedModifierFlags(declaration) & hidden);
    });
  }

  #signature(signature: ts.Signature, path: string): void {
    for (const parameter of signature.parameters) {
      this.#take(this.#checker.getTypeOfSymbol(parameter), `${path}(${parameter.name})`);
    }
    this.#give(signature.getReturnType(), `${path}()`);
  }

  /** What a caller gets: its methods take things. */
  #give(type: ts.Type, path: string): void {
    if (this.#given.has(type)) return;
    this.#given.add(type);
    for (const signature of type.getCallSignatures()) this.#signature(signature, path);
    if (type.isUnionOrIntersection()) type.types.forEach((part) => this.#give(part, path));
    for (const argument of this.#checker.getTypeArguments(type as ts.TypeReference) ?? []) {
      this.#give(argument, path);
    }
    if (!this.#isOurs(type)) return;
    for (const property of this.#publicProperties(type)) {
      this.#give(this.#checker.getTypeOfSymbol(property), `${path}.${property.name}`);
    }
  }

  /** What a caller hands over. */
  #take(type: ts.Type, path: string): void {
    if (this.#taken.has(type)) return;
    this.#taken.add(type);
    if (type.isUnion()) return type.types.forEach((part) => this.#take(part, path));
    if (this.#checker.isTupleType(type)) {
      const { target } = type as ts.TupleTypeReference;
      if (!target.readonly) this.mutableTuples.add(path);
    }
    if (this.#checker.isArrayType(type) || this.#checker.isTupleType(type)) {
      const parts = this.#checker.getTypeArguments(type as ts.TypeReference);
      return parts.forEach((part) => this.#take(part, `${path}[]`));
    }
    // Objects of our classes are made by us.
    if (type.isClass() || !this.#isOurs(type)) return;
    for (const property of this.#publicProperties(type)) {
      const at = `${path}.${property.name}`;
      this.fields++;
      if (property.flags & ts.SymbolFlags.Optional && !this.#takesUndefined(property)) {
        this.withoutUndefined.add(at);
      }
      this.#take(this.#checker.getTypeOfSymbol(property), at);
    }
  }

  /** With exactOptionalPropertyTypes the type of a field that may be absent alone has another `undefined` than this one. */
  #takesUndefined(property: ts.Symbol): boolean {
    const type = this.#checker.getTypeOfSymbol(property);
    if (type.flags & ts.TypeFlags.Unknown) return true;
    return (type.isUnion() ? type.types : [type]).includes(this.#checker.getUndefinedType());
  }

  #publicProperties(type: ts.Type): ts.Symbol[] {
    const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
    return this.#checker
      .getPropertiesOfType(type)
      .filter((property) => property.declarations?.some((declaration) => this.#isIn(declaration)) ?? false)
      .filter(({ valueDeclaration: declaration }) => {
        return !declaration || !(ts.getCombinedModifierFlags(declaration) & hidden);
      });
  }

  /** Whether the package declares it: types of Node and of the language are not ours to change. */
  #isOurs(type: ts.Type): boolean {
    return this.#publicProperties(type).length > 0;
  }

  #isIn(declaration: ts.Declaration): boolean {
    const { fileName } = declaration.getSourceFile();
    return [...this.#roots].some((root) => fileName.startsWith(`${root}/`));
  }
}
